"""Sources: functions that open a data set. Their arguments are the settings of its option."""
