"""The artifact store: content-addressed files on a disk or on S3, and checkpoints."""
