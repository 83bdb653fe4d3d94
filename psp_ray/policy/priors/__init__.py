"""Priors of the policy, one file each (`psp_ray.policy.prior` says what one is)."""
