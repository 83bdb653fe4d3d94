"""The S3 server of the cluster's tests."""

from tests.cluster.conftest import s3_server  # noqa: F401
