"""What each stage leaves: names, format, reading, writing, checks, facts and code dependencies."""
