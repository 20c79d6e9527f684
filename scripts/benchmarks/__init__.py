"""The benchmarks of BENCHMARKS.md; ``scripts/bench`` runs them."""
