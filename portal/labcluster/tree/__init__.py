"""The agent on the file server; `tree.py` is installed there as one file and imports nothing of ours."""
