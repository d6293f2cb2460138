"""Where processors run, from the inside out.

- `batches`: what a batch is made of; `tasks`: what is done with one, and its `Outcome`; `errors`: how errors travel.
- `process`: what runs in a worker process; `environment` and `arithmetic`: what holds there as in its program;
  `packing`: what is sent there and back; `memory`: how large arrays are.
- `worker`: a process as its program sees it; `pool`: where workers are kept, and replaced.
- `engines`: executors of somebody else's; `info`: which worker this is.
- `backends`: threads, worker processes and executors; `flight`: batches pulled, submitted, and run again.
"""
