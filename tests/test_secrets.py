"""No secret is in a file of the repository: detectors of detect-secrets, but those that go by entropy or names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.initialize import from_plugin_classname
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).resolve().parents[1]
DETECTORS = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SlackDetector",
    "StripeDetector",
)
MOST = 400_000
"""Bytes of a file that is looked through; larger ones are tables and weights."""
MADE_UP = {
    ("docs/cluster.md", "Basic Auth Credentials"),
    ("tests/acquisition/test_rivals.py", "GitHub Token"),
    ("tests/data/test_remote.py", "Basic Auth Credentials"),
    ("tests/labels/test_ledger.py", "Basic Auth Credentials"),
    ("tests/studies/sweep/test_sweep.py", "Basic Auth Credentials"),
}
"""What looks like one, and was read: passwords of nobody in examples and tests, a name in a paper's code."""


def secrets_in(root, names):
    with transient_settings({"plugins_used": [{"name": name} for name in DETECTORS]}):
        found = SecretsCollection(str(root))
        patterns = [pattern for name in DETECTORS for pattern in from_plugin_classname(name).denylist]
        for name in names:
            text = (root / name).read_text(encoding="utf-8", errors="replace")
            if any(pattern.search(text) for pattern in patterns):  # a file at once; the scan goes line by line
                found.scan_file(name)
        return {(name, secret.type) for name, secret in found}


def test_no_secret_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    texts = [name for name in names if (ROOT / name).stat().st_size <= MOST and b"\0" not in (ROOT / name).read_bytes()]
    assert len(texts) > 500
    assert secrets_in(ROOT, texts) == MADE_UP


def test_a_secret_would_be_found(tmp_path):
    key = "AKIA" + "QYLPMN5HFIQR7XYA"
    (tmp_path / "a.py").write_text(f'ACCESS = "{key}"\n')
    (tmp_path / "b.pem").write_text("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n")
    assert secrets_in(tmp_path, ["a.py", "b.pem"]) == {("a.py", "AWS Access Key"), ("b.pem", "Private Key")}
