"""The report page: plots.py draws, page.py puts them and the tables on one page of HTML without any reference out."""
