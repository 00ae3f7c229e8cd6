"""Emotion recognition in speech."""
