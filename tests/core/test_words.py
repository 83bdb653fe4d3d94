"""Passwords in addresses never reach a terminal or a file."""

import pytest

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.core.words import counted, masked, printable
from psp_ray.labels.database import resolve_ledger_url, shown
from psp_ray.studies.settings import Study, StudySettings
from psp_ray.studies.sweep.request import SweepRequest, make_plan

SECRET = "s3cr3t"
ADDRESSES = [
    f"postgresql://me:{SECRET}@host/db",
    f"postgresql+psycopg://me:{SECRET}@host:5432/db?sslmode=require",
    f"postgresql://host/db?user=me&password={SECRET}",
    f"postgresql://me@host/db?PASSWORD={SECRET}&sslmode=require",
    f"postgresql://host/db?sslpassword={SECRET}",
    f"s3://key:{SECRET}@bucket/x",
    f"s3://bucket/x?access_key=a&secret_key={SECRET}",
    f"https://user:{SECRET}@host/list.csv",
    f"https://user:{SECRET}@{SECRET}@host/list.csv",
    f"https://host/a.png?X-Amz-Signature={SECRET}&X-Amz-Date=2026",
    f"https://account.blob.core.windows.net/c/a.png?sv=2026&sig={SECRET}",
    f"abfs://c@account/x?sas_token={SECRET}",
    f"ftp://:{SECRET}@host",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_passwords_are_masked(address):
    for text in (address, f"error: {address}: can't be opened ({address}) 'x'", f'{{"ledger": "{address}"}}'):
        assert SECRET not in masked(text)
        assert SECRET not in printable(text)
    assert "host" in masked(address) or "bucket" in masked(address) or "account" in masked(address)
    assert masked(masked(address)) == masked(address)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/a.png?size=5&page=2",
        "s3://bucket/a@b.png",
        "C:/x:y@z",
        "psp-ray export: a:b@c",
        "FOLDER:SPLIT.json",
        "http://[::1]:80/x",
        "https://host:8080/x@y",
    ],
)
def test_what_holds_none_stays(text):
    assert masked(text) == text


def test_settings_are_written_without_passwords():
    config = Config(ledger=ADDRESSES[0], storage=ADDRESSES[5])
    assert SECRET not in config.to_yaml()
    assert "postgresql://me:***@host/db" in config.to_yaml()
    assert config.labels.ledger == ADDRESSES[0]
    assert SECRET not in str(config.identity())
    study = Study(StudySettings(datasets=("digits",), strategies=("random",)), {"ledger": ADDRESSES[2]})
    assert SECRET not in study.to_yaml()
    with pytest.raises(ConfigError, match="a sweep writes its settings down") as caught:
        make_plan(SweepRequest(datasets="digits", fixed=(f"ledger={ADDRESSES[0]}",)))
    assert SECRET not in str(caught.value)


def test_ledgers_are_named_without_passwords():
    for address in ADDRESSES[:5]:
        assert SECRET not in shown(resolve_ledger_url(address))
    with pytest.raises(OracleError, match="its password was left out where this was written down"):
        resolve_ledger_url(masked(ADDRESSES[0]))


@pytest.mark.parametrize(
    ("number", "given", "said"),
    [
        (0, ("label",), "0 labels"),
        (1, ("label",), "1 label"),
        (2000, ("pool image",), "2,000 pool images"),
        (1, ("image is", "images are"), "1 image is"),
        (3, ("image is", "images are"), "3 images are"),
    ],
)
def test_one_is_no_many(number, given, said):
    assert counted(number, *given) == said
