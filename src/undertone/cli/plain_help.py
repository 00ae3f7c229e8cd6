"""Help pages without what tells a reader nothing."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class _PlainHelp:
    """Leaves out typer's type column for flags and arguments (``<bool>``, ``<list[Path]>``) and braces in usage."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.replace("{", "").replace("}", "") for piece in pieces]


class Command(_PlainHelp, TyperCommand):
    """A command of undertone."""


class Group(_PlainHelp, TyperGroup):
    """A group of commands of undertone."""
