"""The GPUs that training and serving can run on, and the machines that Google Cloud offers with them.

To add one: a line in `GPUS`.
"""

from dataclasses import dataclass

#: A model whose weights take more than this share of a GPU's memory leaves too little for the rest: several GPUs shard it.
MOST_WEIGHTS = 0.6

#: Bytes beside a float32 weight that learns: its gradient and AdamW's two averages.
LEARNING = 12


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Args:
        vertex: Its name on Vertex.
        gke: Its name in the label `cloud.google.com/gke-accelerator` of a GKE node; empty for any GPU on any node.
        gpu_memory: GB on each of them; 0 when that is not known.
        bfloat16_tflops: Peak of its tensor cores on dense matrices, 10^12 operations a second.
        float32_tflops: Peak in float32, as torch multiplies it (no TF32).
        bandwidth: Of its memory, GB a second.
        link: From one of them to another on the same machine, GB a second in one direction.
        cpu: Virtual CPUs that come with each of them.
        memory: GB of the machine's memory that come with each of them.
        machine_types: Number of GPUs to the Compute Engine machine that Vertex offers with so many.
        on_demand: Numbers of GPUs for which that machine can be had on demand.
    """

    vertex: str = ""
    gke: str = ""
    gpu_memory: int = 0
    bfloat16_tflops: float = 0.0
    float32_tflops: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0
    cpu: int
    memory: int
    machine_types: dict[int, str]
    on_demand: tuple[int, ...] = (1, 2, 4, 8)


#: Machines are read from Google's pages on accelerator-optimized machines. Of H100, machines with fewer than 8 exist as Spot
#: or Flex-start VMs alone; H200 comes by eights, as these or with a reservation. Speeds are those of NVIDIA's data sheets,
#: for A100, H100 and H200 of the SXM form; those of L4, H100 and H200 print the double, with sparsity. PCIe links L4s.
GPUS: dict[str, Gpu] = {
    "l4": Gpu(
        vertex="NVIDIA_L4",
        gke="nvidia-l4",
        gpu_memory=24,
        bfloat16_tflops=121,
        float32_tflops=30.3,
        bandwidth=300,
        link=32,
        cpu=12,
        memory=48,
        machine_types={1: "g2-standard-12", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
    ),
    "a100-40gb": Gpu(
        vertex="NVIDIA_TESLA_A100",
        gke="nvidia-tesla-a100",
        gpu_memory=40,
        bfloat16_tflops=312,
        float32_tflops=19.5,
        bandwidth=1555,
        link=300,
        cpu=12,
        memory=85,
        machine_types={1: "a2-highgpu-1g", 2: "a2-highgpu-2g", 4: "a2-highgpu-4g", 8: "a2-highgpu-8g"},
    ),
    "a100-80gb": Gpu(
        vertex="NVIDIA_A100_80GB",
        gke="nvidia-a100-80gb",
        gpu_memory=80,
        bfloat16_tflops=312,
        float32_tflops=19.5,
        bandwidth=2039,
        link=300,
        cpu=12,
        memory=170,
        machine_types={1: "a2-ultragpu-1g", 2: "a2-ultragpu-2g", 4: "a2-ultragpu-4g", 8: "a2-ultragpu-8g"},
    ),
    "h100": Gpu(
        vertex="NVIDIA_H100_80GB",
        gke="nvidia-h100-80gb",
        gpu_memory=80,
        bfloat16_tflops=989,
        float32_tflops=67,
        bandwidth=3350,
        link=450,
        cpu=26,
        memory=234,
        machine_types={1: "a3-highgpu-1g", 2: "a3-highgpu-2g", 4: "a3-highgpu-4g", 8: "a3-highgpu-8g"},
        on_demand=(8,),
    ),
    "h200": Gpu(
        vertex="NVIDIA_H200_141GB",
        gke="nvidia-h200-141gb",
        gpu_memory=141,
        bfloat16_tflops=989,
        float32_tflops=67,
        bandwidth=4800,
        link=450,
        cpu=28,
        memory=369,
        machine_types={8: "a3-ultragpu-8g"},
        on_demand=(),
    ),
    # Any NVIDIA GPU of a Kubernetes cluster, GKE or not; no node with one is smaller.
    "gpu": Gpu(cpu=4, memory=16, machine_types={}),
}


def machine_name(kind: str, count: int) -> str:
    """Return how people call so many of a GPU: `l4`, `a100-80gb-x8`."""
    return kind if count == 1 else f"{kind}-x{count}"
