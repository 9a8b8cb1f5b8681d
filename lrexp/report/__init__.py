"""Reports: from the files of a run or sweep folder to one HTML file that anyone can open."""
