"""X-AnyLabeling's own remote client, without a window. URL GRPC IMAGE EXPECTED."""

import os
import sys

url, _, image, _ = sys.argv[1:]
os.environ["QT_QPA_PLATFORM"] = "offscreen"

import anylabeling.config as settings  # noqa: E402
from anylabeling.services.auto_labeling.remote_server import RemoteServer  # noqa: E402
from PyQt6.QtGui import QImage  # noqa: E402
from PyQt6.QtWidgets import QApplication  # noqa: E402

application = QApplication([])
# Its settings win over XANYLABELING_SERVER_URL: the defaults that it ships name http://127.0.0.1:8000.
settings.current_config_file = f"remote_server_settings: {{server_url: '{url}'}}"
complaints: list[str] = []
client = RemoteServer(
    {"type": "remote_server", "name": "remote", "display_name": "Remote"}, complaints.append
)
assert client.get_available_models()["demo"]["batch_processing_mode"] == "text_prompt"
client.set_model_id("demo")
assert client.get_batch_processing_mode() == "text_prompt"
result = client.predict_shapes(QImage(image), image, text_prompt="grass; giraffe; tartan, plaid")
assert complaints == [], complaints
assert {shape.label for shape in result.shapes} == {"grass", "giraffe", "tartan"}
assert all(len(shape.points) >= 3 for shape in result.shapes)
print(f"X-AnyLabeling ok: {len(result.shapes)} polygons")
