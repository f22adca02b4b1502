"""The compatibility matrix as data: what is done with a guarded pipeline, and what the guard promises then.

README.md shows these rows, and each of them is a test: see ``stage.py`` for how, ``test_table.py`` for all being there.
"""

from __future__ import annotations

from dataclasses import dataclass

EFFECTIVE = "effective"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    ``error`` and ``words``: class and message (a regular expression) of a refusal.
    ``note``: what the test does otherwise than users would.
    """

    group: str
    key: str
    what: str
    error: str = ""
    words: str = ""
    note: str = ""

    @property
    def outcome(self) -> str:
        """EFFECTIVE or REFUSED."""
        return REFUSED if self.error else EFFECTIVE


INEFFECTIVE = "GuardNotEffective"
MISMATCH = "ModelMismatch"

_BY_HAND = "without an accelerator: the same hook classes, installed by hand with the CPU as the device to run on"

_SAMPLING = tuple(
    Row("sampling", *row)
    for row in (
        ("ddim", "DDIM"),
        ("pndm", "PNDM"),
        ("euler", "Euler"),
        ("heun", "Heun"),
        ("dpmpp-2m", "DPM++ 2M"),
        ("unipc", "UniPC"),
        ("lcm", "LCM"),
        ("kdpm2", "KDPM2"),
        ("1-step", "1 step"),
        ("2-steps", "2 steps"),
        ("7-steps", "7 steps"),
        ("50-steps", "50 steps"),
        ("100-steps", "100 steps"),
        ("no-guidance", "guidance scale 1"),
        ("guidance", "guidance scales above 1"),
        ("conditional", "editing the conditional branch alone"),
        ("images-per-prompt", "several images per prompt"),
        ("prompts", "batches of prompts"),
        ("not-square", "sizes that are not square"),
        ("img2img", "image to image"),
        ("inpaint", "inpainting"),
        ("autocast", "`torch.autocast`, `torch.inference_mode`"),
        ("edm", "EDM schedulers", INEFFECTIVE, "noise levels in place of timesteps"),
        ("euler-continuous", "Euler with continuous timesteps", INEFFECTIVE, "noise levels in place of timesteps"),
        ("far-timestep", "timesteps far from the calibrated ones", INEFFECTIVE, "away from the nearest calibrated one"),
    )
)

_SHARING = tuple(
    Row("sharing and copies", *row)
    for row in (
        ("two-images", "images in a row"),
        ("shared-unet", "a second pipeline on the same denoiser (guarded, too)"),
        ("from-pipe", "`from_pipe`, reuse of `components` (guarded, too)"),
        ("threads", "threads with pipelines of their own on one denoiser"),
        ("two-guards", "two guarded pipelines, one used inside the other"),
        ("exception", "the next image after an exception or Ctrl-C"),
        ("cancelled", "an image that was cancelled"),
        ("denoiser-copy", "a deep copy of the denoiser (takes the guard along)"),
        ("save", "`save_pretrained` (what is saved has no guard: attach again after loading)"),
        ("copy", "`copy.deepcopy(pipe)`", INEFFECTIVE, "can be neither copied nor pickled"),
        ("pickle", "pickling the pipeline", INEFFECTIVE, "can be neither copied nor pickled"),
        ("same-class", "a pipeline made by the guarded one's class", INEFFECTIVE, "made from a guarded one"),
        ("second-guard", "a second guard on one denoiser", INEFFECTIVE, "already carries a guard"),
        ("other-model", "another model than the guard's", MISMATCH, "holds another model"),
    )
)

_COMPILE = tuple(
    Row("torch.compile", *row)
    for row in (
        ("compile-attach", "`pipe.unet = torch.compile(pipe.unet)`, then attach"),
        ("compile-in-place-attach", "`pipe.unet.compile()`, then attach"),
        ("attach-compile-in-place", "attach, then `pipe.unet.compile()`"),
        ("regional-attach", "`compile_repeated_blocks()`, also in use, then attach"),
        ("attach-regional", "attach, then `compile_repeated_blocks()`"),
        ("compile-aot", "graphs from AOTAutograd"),
        ("compile-detach", "compile, attach, detach, attach another guard"),
        ("compile-in-use", "attach after the compiled model has run", INEFFECTIVE, "without passing"),
        ("compile-in-place-in-use", "attach after the in-place compiled model has run", INEFFECTIVE, "without passing"),
        ("attach-compile", "attach, then `pipe.unet = torch.compile(pipe.unet)`", INEFFECTIVE, "replaced or compiled"),
    )
)

_OFFLOAD = tuple(
    Row("offload and moves", *row)
    for row in (
        ("model-offload", "model offload after attach", "", "", _BY_HAND),
        ("model-offload-before", "model offload before attach", "", "", _BY_HAND),
        ("sequential-offload", "sequential offload after attach", "", "", _BY_HAND),
        ("sequential-offload-before", "sequential offload before attach", "", "", _BY_HAND),
        ("offload-removed", "offload switched off again"),
        ("group-offload", "group offload, by block and by leaf"),
        ("layerwise-casting", "layerwise casting"),
        ("bfloat16", "`pipe.to(torch.bfloat16)` after attach"),
        ("float64", "`pipe.to(torch.float64)` after attach"),
        ("unet-bfloat16", "a bfloat16 model before attach"),
        ("channels-last", "`channels_last`"),
        ("to-cpu", "`pipe.to(device)` after attach"),
        ("meta", "the `meta` device", INEFFECTIVE, "without data"),
        (
            "sequential-fingerprint",
            "attach a guard that names its model to one under sequential offload",
            MISMATCH,
            "is not in memory",
            _BY_HAND,
        ),
    )
)

_LORA = tuple(
    Row("LoRA", *row)
    for row in (
        ("lora-load", "load after attach"),
        ("lora-unload", "load and unload after attach"),
        ("lora-fuse", "fuse after attach"),
        ("lora-unfuse", "fuse and unfuse after attach"),
        ("lora-before", "load before attach"),
        ("lora-hotswap", "two adapters, switched after attach"),
        ("lora-offload", "load under sequential offload", "", "", _BY_HAND),
        (
            "lora-fingerprint",
            "attach a guard that names its model to one with a LoRA",
            MISMATCH,
            "holds another model",
        ),
        ("lora-layer", "a hookpoint that is a layer, replaced by its LoRA", INEFFECTIVE, "no longer part of the model"),
    )
)

_SPEED = tuple(
    Row("attention and memory", *row)
    for row in (
        ("attention-slicing", "attention slicing"),
        ("vae-tiling", "VAE tiling and slicing"),
        ("processors", "`set_attn_processor` (as for xFormers)"),
        ("fused-qkv", "fused QKV projections"),
        ("freeu", "FreeU"),
    )
)

_CACHES = tuple(
    Row("caches and bypasses", *row)
    for row in (
        ("pab", "Pyramid Attention Broadcast"),
        ("half-batch", "code that runs the conditional half of a batch alone"),
        ("faster-cache", "FasterCache", INEFFECTIVE, "timesteps; expected one timestep"),
        ("first-block-cache", "FirstBlockCache", INEFFECTIVE, "diffusers hook fbc_"),
        ("first-block-cache-shared", "FirstBlockCache of another pipeline", INEFFECTIVE, "diffusers hook fbc_"),
        ("taylorseer", "TaylorSeer", INEFFECTIVE, "diffusers hook taylorseer_cache"),
        ("mag-cache", "MagCache", INEFFECTIVE, "diffusers hook mag_cache"),
        ("sea-cache", "SeaCache", INEFFECTIVE, "diffusers hook sea_cache"),
        ("layer-skip", "skipped layers", INEFFECTIVE, "diffusers hook"),
        ("deep-cache", "DeepCache: blocks skipped", INEFFECTIVE, "saw 0"),
        ("deep-cache-block", "DeepCache: the hookpoint's output kept", INEFFECTIVE, r"the forward\(\) of .* replaced"),
        ("denoiser-cache", "caches of the denoiser's output", INEFFECTIVE, "expected at least 3 guarded"),
        ("block-forward", "`block.forward()` in place of `block()`", INEFFECTIVE, "without passing"),
        ("denoiser-forward", "`unet.forward()` in place of `unet()`", INEFFECTIVE, "outside of a call of the denoiser"),
        ("handle-removed", "a hook removed by its handle", INEFFECTIVE, "attentions.1 removed"),
        ("hooks-cleared", "all hooks cleared", INEFFECTIVE, "removed"),
        ("hooks-cleared-midway", "hooks cleared while an image forms", INEFFECTIVE, "removed"),
        ("accelerate-removed", "accelerate's `remove_hook_from_module` (leaves the guard alone)"),
        ("block-replaced", "a block replaced", INEFFECTIVE, "no longer part of the model"),
        ("denoiser-replaced", "the denoiser replaced", INEFFECTIVE, "is not the model that the guard was attached to"),
    )
)

_TWO_STREAMS = "expected one activation"

_LAYOUTS = tuple(
    Row("models", *row)
    for row in (
        ("sd", "Stable Diffusion 1.x"),
        ("sdxl", "SDXL"),
        ("sd3-ff", "SD3: feed-forward"),
        ("flux-ff", "FLUX: feed-forward of double blocks"),
        ("flux-single", "FLUX: attention of single blocks"),
        ("flux-offgrid", "FLUX: other numbers of steps"),
        ("pixart", "PixArt"),
        ("sana", "SANA"),
        ("sd3-block", "SD3: whole blocks (two streams)", INEFFECTIVE, _TWO_STREAMS),
        ("sd3-attention", "SD3: joint attention (two streams)", INEFFECTIVE, _TWO_STREAMS),
        ("flux-block", "FLUX: whole blocks (two streams)", INEFFECTIVE, _TWO_STREAMS),
        ("sana-sprint", "SANA-Sprint", MISMATCH, "SANA-Sprint"),
        ("unknown", "denoisers not named here (Qwen-Image, Lumina, ...)", MISMATCH, "none of the denoisers"),
    )
)

ROWS = (*_SAMPLING, *_SHARING, *_COMPILE, *_OFFLOAD, *_LORA, *_SPEED, *_CACHES, *_LAYOUTS)
