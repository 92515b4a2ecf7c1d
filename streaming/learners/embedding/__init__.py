"""An embedding table that never exceeds its bytes: exact ids, rows of 8-wide blocks, admission, eviction, forgetting.

Read `keys` (what an id is), `layout` (what each byte is for), `index` and `blocks` (the kernels), `store` (the table itself),
`export` (what a reader gets) and `module` (the table as a torch module). Only `module` imports torch.
"""
