"""Run by a Python that has the label-studio package: import tasks, annotate them, export. No server is started.

Usage: python label_studio_session.py FOLDER, which holds tasks.json and interface.xml; writes export.json there.
Annotates every task with the class that its sample_id begins with; the first one is skipped, the second corrected.
"""

import json
import os
import sys
from pathlib import Path

folder = Path(sys.argv[1])
os.environ.update(
    {
        "DJANGO_SETTINGS_MODULE": "label_studio.core.settings.label_studio",
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LOG_LEVEL": "ERROR",
    }
)
import label_studio  # noqa: E402

sys.path.insert(0, str(Path(label_studio.__file__).parent))  # as its own manage.py does
os.environ["DJANGO_SETTINGS_MODULE"] = "core.settings.label_studio"
import django  # noqa: E402

django.setup()
from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402

settings.ALLOWED_HOSTS = ["*"]
call_command("migrate", verbosity=0, interactive=False)

from organizations.models import Organization  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402
from users.models import User  # noqa: E402

user = User.objects.create_user(email="someone@example.com", password="not a secret, this is a test")
organization = Organization.create_organization(created_by=user, title="test")
user.active_organization = organization
user.save()
client = APIClient()
client.force_authenticate(user)


def call(method, path, content=None, expected=(200, 201)):
    answer = getattr(client, method)(path, content, format="json")
    assert answer.status_code in expected, (path, answer.status_code, answer.content[:500])
    return answer


config = (folder / "interface.xml").read_text()
project = call("post", "/api/projects/", {"title": "round", "label_config": config}).json()["id"]
tasks = json.loads((folder / "tasks.json").read_text())
call("post", f"/api/projects/{project}/import", tasks)
listed = call("get", f"/api/projects/{project}/tasks/?page_size=1000").json()
assert len(listed) == len(tasks), (len(listed), len(tasks))


def choice(name):
    return [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [name]}}]


for number, task in enumerate(sorted(listed, key=lambda task: task["id"])):
    name = task["data"]["sample_id"].split("-")[0]
    path = f"/api/tasks/{task['id']}/annotations/"
    if number == 0:
        call("post", path, {"result": [], "was_cancelled": True})
        continue
    made = call("post", path, {"result": choice("ignore" if number == 1 else name)}).json()
    if number == 1:
        call("patch", f"/api/annotations/{made['id']}/", {"result": choice(name)})
answer = call("get", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
data = b"".join(answer.streaming_content) if answer.streaming else answer.content
(folder / "export.json").write_bytes(data)
print(len(json.loads(data)), "tasks exported")
