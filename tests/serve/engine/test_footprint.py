"""The predicted memory of images, compared with what the real networks allocate."""

from __future__ import annotations

import copy

import pytest
import torch

from mmface.bundles.bundle import Bundle
from mmface.model import Conditioning, predict
from mmface.networks.vae import decode
from mmface.train.memory_account import Account
from mmface.train.memory_check import machine_memory
from serve.engine.footprint import Footprint, Load, Room, default_limit, predict_footprint, ran_out_of_memory, room_for
from tests.serve.service import tiny_recipe


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_prediction_is_what_the_real_network_allocates(bundle: Bundle, precision: str) -> None:
    pipeline = copy.copy(bundle.pipeline)
    pipeline.register_to_config(precision=precision)
    footprint = predict_footprint(pipeline, 64)
    account = Account({"weights": 0.0, "weight copies": 0.0})
    with torch.no_grad(), account:
        network = copy.deepcopy(pipeline.transformer)
        with account.doing("", "activations"):
            text = torch.zeros(1, 16, 16)
            conditioning = Conditioning(torch.zeros(1, 4, 16, 16), text, text[:, 0], torch.zeros(1, dtype=torch.long))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                predict(network, torch.zeros(1, 4, 16, 16), torch.zeros(1), conditioning)
    assert footprint.row == account.fullest["activations"] > 64 * 32 * 4
    decoding = Account({})
    latents = torch.zeros(1, 4, 16, 16)
    with decoding:
        decode(pipeline.vae, latents)
    assert footprint.fixed > sum(decoding.fullest.values()) > 3 * 64 * 64 * 4


def test_guidance_and_size_change_the_prediction(bundle: Bundle) -> None:
    image = predict_footprint(bundle.pipeline, 64).image
    plain, guided = image(64, 64, rows=1), image(64, 64, rows=2)
    assert 1.5 * plain < guided < 2 * plain
    assert image(32, 32, rows=2) < guided / 2
    assert image(32, 64, rows=2) == image(64, 32, rows=2)


def test_the_default_limit_depends_on_the_device_replicas_and_versions(bundle: Bundle) -> None:
    weights = sum(
        tensor.nbytes
        for network in (bundle.pipeline.transformer, bundle.pipeline.vae, bundle.pipeline.text_encoder)
        for tensor in (*network.parameters(), *network.buffers())
    )
    half = machine_memory() / 2
    assert default_limit(bundle.pipeline, tiny_recipe().serve) == half - 2 * weights
    assert default_limit(bundle.pipeline, tiny_recipe(max_replicas=4).serve) == half / 4 - 2 * weights
    assert default_limit(bundle.pipeline, tiny_recipe(canary="challenger").serve) == (half - 3 * weights) / 2
    room = room_for(bundle.pipeline, 64, tiny_recipe(max_batch=3, max_memory_gib=0.25).serve)
    assert (room.max_images, room.limit) == (3, 2**28)


def test_a_learned_limit_never_rises() -> None:
    room = Room(8, Footprint(row=1, tokens=1, text_tokens=0, multiple=8, latent=0, text=0, fixed=0), 100.0)
    room.learn(Load(4, 60.0))
    room.learn(Load(4, 90.0))
    room.learn(Load(0, 0.0))
    assert room.limit == 30.0


def test_out_of_memory_errors_are_recognised() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(10**15)
    assert ran_out_of_memory(failure.value)
    assert ran_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out_of_memory(ValueError("out of memory"))
