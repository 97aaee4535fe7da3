"""Reports: pages with pictures, figures and decisions."""
