"""What a corpus looks like: counts, durations, levels, pitch, galleries, a map of embeddings; as one HTML page.

``explore`` measures, ``summarise`` turns that into the numbers of the page (and of ``--json``), ``write_page``
draws. Cheap measures are taken on every clip, the costly ones (pitch, embeddings) on a sample that is
drawn evenly over speakers and emotions. A clip that cannot be read costs nothing but itself: it is listed.
"""

from undertone.lab.explore.measure import Embedded, Exploration, explore
from undertone.lab.explore.page import write_page
from undertone.lab.explore.summary import summarise

__all__ = ["Embedded", "Exploration", "explore", "summarise", "write_page"]
