"""Rewards, one file each: what a round's samples are paid for (`psp_ray.policy.reward` says how it enters)."""
