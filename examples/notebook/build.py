"""Run the notebook from top to bottom and write it with its outputs.

    python examples/notebook/build.py              in place: before a commit that changes it
    python examples/notebook/build.py OUT.ipynb    elsewhere: to see whether it works here

Unlike `jupyter execute --inplace`, it leaves no times and versions in the file.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).with_name("federated_notebook.ipynb")
TIMEOUT_S = 120  # for a cell
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def main() -> int:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # where the notebook's relative paths lead
        client = NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": folder}})
        try:
            client.execute()
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            return 1
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    nbformat.write(notebook, out)
    return 0


def joined(outputs: list) -> list:
    """Join text that was printed in one go: how it is cut into pieces is a matter of time."""
    found: list = []
    for output in outputs:
        last = found[-1] if found else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            found.append(output)
    return found


if __name__ == "__main__":
    sys.exit(main())
