"""The classes of the private framework: as a listing, as a header, and compared with another's.

Nothing of the framework is called.
"""

from ane_train.explore.listing import Explored, Listing, explore, known_listing, read_listing

__all__ = ["Explored", "Listing", "explore", "known_listing", "read_listing"]
