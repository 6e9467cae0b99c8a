"""The notebooks run from top to bottom, and the outputs that they are committed with are those of a whole run."""

import pathlib

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parents[2] / "colabs"
ROUNDS = "CONTEXTS, EDITS, HELDOUT, ROUNDS = "
# Of each notebook: how the line of sizes in its settings begins, small sizes, what its outputs then have, and what they
# have of a whole run.
NOTEBOOKS = {
    "arc": (ROUNDS, "2, 2, 2, 1", "round1", "round2"),
    "continual": ("STREAMS, PASSAGES = ", "2, 2", "policy+replay", "after 8 edits"),
    "knowledge": (ROUNDS, "2, 2, 2, 1", "round1", "round2"),
    "lse": ("ENVIRONMENTS, CONTEXTS, ROUNDS, HELDOUT, TREE_ROUNDS = ", "2, 2, 1, 2, 1", "trained_tree", "round6"),
}


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def text(notebook):
    """Returns everything that the cells printed or displayed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text", "") or str(output.get("data", "")) for output in outputs)


@pytest.fixture(params=sorted(COLABS.glob("*.ipynb")), ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = read(path)
    (settings,) = [cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ())]
    sizes, small, shown, _ = NOTEBOOKS[path.stem]
    (sized,) = [line for line in settings.source.splitlines() if line.startswith(sizes)]
    settings.source = settings.source.replace(sized, sizes + small)
    kernel = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    kernel.execute()  # raises the error of a cell
    assert list(tmp_path.glob("runs/*/report.html"))
    assert shown in text(notebook) and "<svg" in text(notebook)


def test_a_notebook_is_committed_with_the_outputs_of_a_whole_run(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # in order, none left out
    assert NOTEBOOKS[path.stem][-1] in text(notebook) and "<svg" in text(notebook)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
