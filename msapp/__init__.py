"""msapp: a BIDS App for multiple sclerosis MRI."""

__version__ = '0.1.0'
