//! What is added to a pod so that it is one of the mesh.
