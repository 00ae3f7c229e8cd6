"""The fixed vocabulary of emotions: one spelling and one order, in code, model files, tables and JSON."""

EMOTIONS = (
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
    "calm",  # RAVDESS only
    "boredom",  # EMO-DB only
)
