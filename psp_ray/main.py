"""The program: `python -m psp_ray.main COMMAND`, also installed as `psp-ray`."""

from psp_ray.cli.main import main

if __name__ == "__main__":
    main()
