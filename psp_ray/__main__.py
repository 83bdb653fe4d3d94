"""`python -m psp_ray`: the same as `python -m psp_ray.main`."""

from psp_ray.main import main

if __name__ == "__main__":
    main()
