#!/usr/bin/env bash
# One would guess: on a processor, channels last is the faster layout for a network of convolutions, bf16 is at least as
# fast as fp32, and a layer in between costs the same in both layouts. What happens: where a group has one or two
# channels and the image fewer than 1,024 pixels, torch's group norm needs many times as long in channels last, in bf16
# more than ten times, so that it can take half of a small UNet's time. Copying to the plain layout and back is faster.
# Ratios of medians, one thread; it fails if bf16 in channels last takes less than three times the plain layout's time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import statistics
import sys
import time

import torch

torch.set_num_threads(1)


def seconds(work):
    work()
    times = []
    for _ in range(15):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


print(f"torch {torch.__version__}, group norm of 32 groups, batch 64: channels last / plain layout, and with two copies")
worst = 0.0
for channels, side in ((32, 16), (64, 16), (128, 8), (128, 32)):
    for dtype in (torch.float32, torch.bfloat16):
        norm = torch.nn.GroupNorm(32, channels).to(dtype).requires_grad_(False)
        plain = torch.randn(64, channels, side, side).to(dtype)
        last = plain.contiguous(memory_format=torch.channels_last)
        base, slow = seconds(lambda: norm(plain)), seconds(lambda: norm(last))
        copied = seconds(lambda: norm(last.contiguous()).contiguous(memory_format=torch.channels_last))
        print(f"{channels} channels, {side} x {side}, {str(dtype)[6:]}: {slow / base:.1f}, {copied / base:.1f}")
        if (channels, dtype) == (32, torch.bfloat16):
            worst = slow / base
sys.exit(worst < 3)
PYTHON
