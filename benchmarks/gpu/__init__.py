"""What a CUDA machine alone can show: `python -m effnet_cluster.benchmarks.gpu check` and `… bench`.

Both run without network, Ray and MLflow, and at tiny sizes on a CPU. What they saw on real cards is in docs/gpu.md.
"""
