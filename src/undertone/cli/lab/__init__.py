"""``undertone lab``: corpora, training, evaluation and export, a file of commands each."""

from undertone.cli.lab import compare, corpora, explore, features, search, study, table, training
from undertone.cli.lab.options import app

__all__ = ["app", "compare", "corpora", "explore", "features", "search", "study", "table", "training"]


@app.callback()
def lab() -> None:
    r"""Make models, and measure them under protocols that cannot leak.

    From nothing to a model file of your own, command by command:

      [cyan]export UNDERTONE_DATA=corpora[/cyan]                           where corpora go
      [cyan]undertone lab corpora download ravdess[/cyan]                  get one
      [cyan]undertone lab evaluate ravdess-speaker undertone-small[/cyan]  how good is it?
      [cyan]undertone lab train undertone-small[/cyan]                     learn from it all
      [cyan]undertone lab export RUN -o mine.onnx[/cyan]                   write one file
      [cyan]undertone lab test mine.onnx EMO-DB=corpora/EMO-DB[/cyan]      try other voices
      [cyan]undertone predict clip.wav --model mine.onnx[/cyan]            use it

    What takes long can be stopped at any moment: the same command goes on from
    there. Libraries the lab needs: pip install 'undertone\[lab]'
    """
