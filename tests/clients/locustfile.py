"""Locust: images for PNG and JSON, and a class list now and then."""

import os
from pathlib import Path

from locust import HttpUser, constant, task

DATA = Path(os.environ["SCCLIP_IMAGE"]).read_bytes()


class Visitor(HttpUser):
    """Sends one request after the other."""

    wait_time = constant(0)

    @task(3)
    def labels(self) -> None:
        self.client.post("/v1/segment", data=DATA, name="PNG")

    @task(1)
    def masks(self) -> None:
        self.client.post("/v1/segment", data=DATA, headers={"Accept": "application/json"}, name="JSON")

    @task(1)
    def classes(self) -> None:
        self.client.post("/v1/segment?classes=grass;sky", data=DATA, name="classes")
