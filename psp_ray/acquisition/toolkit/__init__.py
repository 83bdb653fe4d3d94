"""What several strategies are built from: clusters, distances of factored embeddings, greedy coverage."""
