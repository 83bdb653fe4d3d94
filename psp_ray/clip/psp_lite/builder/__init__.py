"""How the bundled model was built; not part of the wheel."""
