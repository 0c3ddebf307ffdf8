"""A task of one's own: from a folder of files to a task's definition."""
