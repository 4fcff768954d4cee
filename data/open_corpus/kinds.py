"""What images of the open corpus are called: fakes by the family of their generator, real ones by their style."""

from __future__ import annotations

import re

GAN, SD, SDXL, DIT = "GAN", "Stable Diffusion 1 and 2", "SDXL", "diffusion transformer"
MIDJOURNEY, OPENAI, GOOGLE, OTHER = "Midjourney", "OpenAI", "Google", "other"
FAMILIES = (GAN, SD, SDXL, DIT, MIDJOURNEY, OPENAI, GOOGLE, OTHER)

# Each is searched in the name of a generator, in this order; the first that is found decides.
_RULES = (
    (
        "",
        r"^(unknown:|sdnext_(v6|v20|stageanima)|v0_generated|replit_generated|freepik|firefly_unknown|sdcpp_mixed|mindbomber_aiart)",
    ),
    (MIDJOURNEY, r"midjourney|^mj_"),
    (OPENAI, r"^(dalle[23]|gpt_?image)|_dalle2$"),
    (GOOGLE, r"imagen|imagefx|whisk|nano_banana|gemini"),
    (GAN, r"gan_|gan$|gan2|gan3|stylegan|r3gan|tpdne|^(biggan|pix2pix|stargan|ganimage)"),
    (
        DIT,
        r"^sd_?3|flux|auraflow|pixart|sana|hunyuan|lumina|qwen|z_image|chroma|hidream|cogview[34]|cosmos|omnigen",
    ),
    (DIT, r"wan2|bria_3|f_?lite|gmdit|^(sdnext_)?(sit|uvit|edm2|prx)"),
    (OTHER, r"glid3xl"),
    (
        SDXL,
        r"xl|juggx|ssd_1b|vega|koala|playground_?(v?2|25|prometheus)|prometheus|pony|searge|tempest|hades|ragnarok",
    ),
    (
        SD,
        r"^sd_?[12]|sd1|sd2|_sd_beta|_sd15|^tiny_sd|^sd_|sdxs|instaflow|perflow|^(lcm|ddpo|pcm|hidiffusion|segmoe)",
    ),
    (SD, r"dreamstudio|juggernaut_reborn|playground_v1"),
    (OTHER, r""),
)


def family_of(generator: str) -> str | None:
    """Return the family of a generator, one of FAMILIES; None where it is not known which generator it is."""
    family = next(family for family, pattern in _RULES if re.search(pattern, generator))
    return family or None


def style_of(source: str) -> str:
    """Return the first word of a real source's name, such as "screenshot" of "screenshot_grid2repo"."""
    return source.partition("_")[0]
