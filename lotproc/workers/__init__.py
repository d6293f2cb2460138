"""Where processors run: batches, what is done with one, processes and threads, and batches in flight."""
