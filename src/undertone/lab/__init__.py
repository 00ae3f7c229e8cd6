"""The lab: corpora, protocols, training, evaluation and export of models (extra ``lab``)."""
