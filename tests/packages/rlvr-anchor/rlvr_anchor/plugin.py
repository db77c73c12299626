"""What rlvr-anchor registers."""

from __future__ import annotations

from rlvr_core import Options, hookimpl, option
from rlvr_core.hookspecs import Register

RLVR_API = 1


class AnchorOptions(Options):
    """Distance of the policy's hidden states from a reference's, where tokens were sure."""

    coef: float = option(0.1, "coefficient; 0 switches it off", ge=0.0)
    to: str = option("frozen", "label of the reference")
    sharpness: float = option(1.0, "power of a token's old probability in its weight; 0 weighs all tokens alike", ge=0.0)


@hookimpl
def register_regularisers(register: Register) -> None:
    register(
        "anchor",
        "rlvr_anchor.anchor:Anchor",
        options=AnchorOptions,
        summary="holds hidden states to a reference's, token by token",
    )
