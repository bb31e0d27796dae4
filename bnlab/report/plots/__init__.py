"""The figures of a report, as SVG that reads on light and dark pages, in print and on a phone.

Text takes the page's color; arms are told apart by color, marker and dashes together, the baseline
in gray. The colors (after Okabe and Ito 2008, darkened where needed) differ for color-blind readers
and contrast at least 3:1 with white and with near-black. Figures are small, and many.
"""
