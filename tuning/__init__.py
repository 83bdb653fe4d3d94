"""Search spaces of sweeps (`spaces/`, for --space) and two entry points: `tuning.sweep` and `tuning.report`.

They are `psp-ray sweep` and `psp-ray sweep-report` under other names; the engine is `psp_ray.studies.sweep`.
"""
