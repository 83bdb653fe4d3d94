"""Clusters: many nodes on one machine for tests, and files that describe real ones (KubeRay, cloud launcher)."""
