"""Runs in nerfstudio's environment: its samplers, renderers and TensoRF encodings on inputs from a safetensors file; the answers go into another.

    python nerfstudio_renders.py IN OUT
"""

import sys

import torch
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.field_components.encodings import TensorVMEncoding
from nerfstudio.model_components.ray_samplers import UniformSampler
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, RGBRenderer
from safetensors.torch import load_file, save_file

given = load_file(sys.argv[1])
out = {}

starts, delta = given["starts"], given["delta"]  # R,S,1
zeros = torch.zeros(*starts.shape[:2], 3)
frustums = Frustums(origins=zeros, directions=zeros, starts=starts, ends=starts + delta, pixel_area=torch.ones_like(starts))
samples = RaySamples(frustums=frustums, deltas=delta)
weights = samples.get_weights(given["density"])
out["color"] = RGBRenderer(background_color="black").eval()(rgb=given["rgb"], weights=weights)
out["alpha"] = AccumulationRenderer()(weights=weights)
out["depth"] = DepthRenderer(method="expected")(weights=weights, ray_samples=samples)

origins, directions = given["origins"], given["directions"]
bundle = RayBundle(
    origins=origins, directions=directions, pixel_area=torch.ones(len(origins), 1), nears=given["nears"][:, None], fars=given["fars"][:, None]
)
sampler = UniformSampler(num_samples=int(given["count"]), train_stratified=False).eval()
out["positions"] = sampler(bundle).frustums.get_positions()

side, channels = given["planes"].shape[1], given["planes"].shape[3]
vm = TensorVMEncoding(resolution=side, num_components=channels)
vm.plane_coef.data = given["planes"].permute(0, 3, 1, 2).contiguous()
vm.line_coef.data = given["lines"].transpose(1, 2)[..., None].contiguous()
out["vm"] = vm(given["places"])  # in [-1, 1]
save_file({k: v.detach().contiguous() for k, v in out.items()}, sys.argv[2])
