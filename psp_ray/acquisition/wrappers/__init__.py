"""Wrappers, one file each: `STRATEGY+name` (`psp_ray.acquisition.strategy.Wrapper` says what one is)."""
