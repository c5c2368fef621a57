"""Every check of a configuration that can be made before Ray starts. No check has side effects."""
