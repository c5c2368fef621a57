"""The code inside the jail: the fork server and its children.

Standard library only, Python 3.10 or later. A bare interpreter (`-S`) imports this package as top-level `jail`, so
everything here uses relative imports and nothing of verl.
"""
