"""Write the packaged scene as a baked file takes it, and the labels that the segmenter gives it."""

import sys

import numpy as np

from scclip_rt import Segmenter
from scclip_rt.bench.inputs import packaged_scene
from scclip_rt.image.geometry import resize
from scclip_rt.image.load import load_image

segment = Segmenter("demo", backend="onnxruntime", precision="fp32")
scene = resize(load_image(packaged_scene()), (336, 336))
image = scene.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
np.savez(sys.argv[1], image=image, labels=segment(scene).labels)
