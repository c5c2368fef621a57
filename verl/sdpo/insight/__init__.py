"""What training does, for people to see: the teacher's credit per token, and a page about one run or many."""
