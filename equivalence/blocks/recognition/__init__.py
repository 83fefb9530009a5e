"""Reading a block out of the dataflow of any module: what it computes, not what it is called."""
