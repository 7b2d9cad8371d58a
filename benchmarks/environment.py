"""What a row of results was measured on: the runtime's own account, under the name the scripts here use."""

from scclip_rt.bench.environment import environment

__all__ = ["environment"]
