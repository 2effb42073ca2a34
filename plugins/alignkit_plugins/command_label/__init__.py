"""`alignkit label`: a web page in which people judge."""
