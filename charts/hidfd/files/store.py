"""Write a file where studies keep theirs (a folder, or s3://BUCKET/PREFIX), read it and remove it."""

import os
import sys
import uuid

from pyarrow import fs

if sys.argv[1].startswith("s3://"):
    system = fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None, region=os.environ.get("AWS_REGION")
    )
else:
    system = fs.LocalFileSystem()
path = f"{sys.argv[1].removeprefix('s3://')}/helm-test-{uuid.uuid4()}"
with system.open_output_stream(path) as stream:
    stream.write(b"written")
with system.open_input_stream(path) as stream:
    assert stream.read() == b"written", path
system.delete_file(path)
print(f"{path}: written, read and removed")
